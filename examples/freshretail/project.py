"""FreshRetailNet: 865 products in 898 stores of 18 cities, hour by hour, 28 March to 18 June 2024 (CC BY 4.0).

Two models of how much each store sells on coming days: ``store-day`` from the end of the data, ``store-day-plan`` for planning people
a week ahead on data that arrive two days late; and ``store-item-hour``: how much of each product each store sells in each of the next 48
hours, 50,000 series from 99.6 million rows. The tables are found through ENDCAP_DATA.
"""

import endcap as ec

ZONE = "Asia/Shanghai"
FOLDER = "$ENDCAP_DATA/freshretailnet"

# How much an hour usually sells, against the mean hour: means of in-stock hours from 28 March to 20 May 2024. A stock-out at night hides
# little, one at noon much, so the share of a day on which demand could not be seen is weighed by these.
HOUR_WEIGHTS = (
    "0.21, 0.12, 0.07, 0.05, 0.06, 0.22, 0.67, 1.31, 2.01, 2.31, 2.18, 1.62, 1.27, 1.20, 1.42, 1.87, 2.08, 1.63, 1.13, 0.89, 0.75, 0.46, 0.29, 0.17"
)

sales = ec.Table(
    "sales_hourly",
    f"{FOLDER}/sales_hourly.parquet",
    keys=["store_id", "product_id"],
    event_time="dt + hour * INTERVAL 1 HOUR",
    interval="1h",
    zone=ZONE,
    columns={"unseen": f"hourly_stockout * list_extract([{HOUR_WEIGHTS}], hour + 1)"},
    contract=ec.Contract(
        columns={
            "store_id": ec.Check(type="integer", nulls=False),
            "product_id": ec.Check(type="integer", nulls=False),
            "dt": ec.Check(type="date", nulls=False),
            "hour": ec.Check(type="integer", nulls=False, least=0, most=23),
            "hourly_sale": ec.Check(type="number", nulls=False, least=0),
            "hourly_stockout": ec.Check(type="integer", nulls=False, least=0, most=1),
        }
    ),
    description="units sold and the stock-out flag, by store, product, day and hour; sales are in units of 0.1",
)
conditions = ec.Table(
    "conditions_daily",
    f"{FOLDER}/conditions_daily.parquet",
    keys=["store_id", "product_id"],
    event_time="dt",
    zone=ZONE,
    contract=ec.Contract(columns={"discount": ec.Check(type="number", least=0), "activity_flag": ec.Check(type="integer", least=0, most=1)}),
    description="discount, activity, holiday flag and weather by store, product and day",
)
stores = ec.Table("stores", f"{FOLDER}/stores.parquet", keys=["store_id"], description="the city of each store")
products = ec.Table("products", f"{FOLDER}/products.parquet", keys=["product_id"], description="the categories of each product")

# How busy a store was lately, for whoever asks: endcap features materialise store_traffic, then endcap up. The forecasts below count such things
# from their own panel; a daily one would read the view with features=[store_traffic].
store_traffic = ec.FeatureView(
    "store_traffic",
    source=sales,
    keys=["store_id"],
    features={
        "units_7d": ec.sum("hourly_sale", "7d"),
        "units_same_weekday": ec.mean("hourly_sale", "28d", same="weekday"),
        "products_7d": ec.distinct("product_id", "7d", where="hourly_sale > 0"),
        "stockout_7d": ec.mean("hourly_stockout", "7d"),
    },
    max_age="3d",
    owner="demand",
    description="How much a store sold lately, of how many products, and how often its shelves were empty",
    tags=["staffing"],
)

# The holidays of China with their substituted days off and worked weekends are known ahead; the data's own holiday_flag is not used:
# it marks the worked weekends of 28 April and 11 May as holidays.
common = {
    "table": sales,
    "target": ec.sum("hourly_sale"),
    "keys": ["store_id"],
    "horizon": "7d",
    "known_ahead": {"discount": ec.mean("discount", table=conditions), "activity": ec.mean("activity_flag", table=conditions)},
    "static": stores,
    "slices": ["city_id"],
    "holidays": "CN",
}

store_day = ec.Forecast("store-day", **common, censored=ec.mean("unseen"), censored_most=0.999, demand=True)

# The same on data two days late and six days ahead: what a planner of shifts knows. A late table is a table of its own.
late_sales = ec.Table("sales_hourly_late", sales.source, keys=sales.keys, event_time=sales.event_time, interval="1h", zone=ZONE, known_after="2d")
store_day_plan = ec.Forecast("store-day-plan", **{**common, "table": late_sales}, lead="6d")

# Every hour of every product in every store, in hours in which it was in stock. The gate asks for the RMSE: with four hours in five at zero
# an absolute error pays for forecasting too little.
store_item_hour = ec.Forecast(
    "store-item-hour",
    sales,
    ec.sum("hourly_sale"),
    keys=["store_id", "product_id"],
    members=["store_id"],
    every="1h",
    horizon="48h",
    censored=ec.max("hourly_stockout"),
    known_ahead=common["known_ahead"],
    static=[stores, products],
    slices=["city_id"],
    holidays="CN",
    gate=ec.Gate(metric="rmse", bias=0.05),
    watch=[ec.Quality("rmse", factor=1.3)],
)
